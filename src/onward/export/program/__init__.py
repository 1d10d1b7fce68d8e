"""Networks as programs of plain torch: one step of inference, states in and states out."""

from onward.export.program.onnx import Written, export_run_onnx, write_onnx
from onward.export.program.run import NAME, Programmed, export_run, write_program
from onward.export.program.step import InferenceStep, Slot

__all__ = [
    "NAME",
    "InferenceStep",
    "Programmed",
    "Slot",
    "Written",
    "export_run",
    "export_run_onnx",
    "write_onnx",
    "write_program",
]
