"""A float `.tflite` in another precision, with calibration data, and a report of what it costs."""

from paceline.exporters.precision.calibration import Calibration
from paceline.exporters.precision.quantize import Interface, Precision, quantised
from paceline.exporters.precision.report import PrecisionReport, compare

__all__ = ["Calibration", "Interface", "Precision", "PrecisionReport", "compare", "quantised"]
