"""Search spaces, as supernets from which `paceline.pipeline.supernet.space_of` reads the Space."""

from paceline.pipeline.spaces.mobile import Stage, mobile, mobile_imagenet, mobile_small

__all__ = ["Stage", "mobile", "mobile_imagenet", "mobile_small"]
