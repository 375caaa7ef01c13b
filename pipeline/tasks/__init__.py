"""What a network has to learn: images with labels, in three parts."""

from paceline.pipeline.tasks.arrays import npz
from paceline.pipeline.tasks.digits import digits
from paceline.pipeline.tasks.images import image_folder
from paceline.pipeline.tasks.task import Split, SplitName, Task, make_task

__all__ = ["Split", "SplitName", "Task", "digits", "image_folder", "make_task", "npz"]
