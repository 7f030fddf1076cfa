"""`.tflite` files: the reader and the writer under one name."""

from legion_iot.model.tflite_reader import open_file, read
from legion_iot.model.tflite_writer import write, write_file

__all__ = ["open_file", "read", "write", "write_file"]
