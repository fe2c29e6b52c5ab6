"""What the real SGLang server lacks on a machine without a GPU; inactive where there is one."""

__version__ = "0.1.0"
