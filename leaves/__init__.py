"""Provide the functions behind the notebooks; importing this package sets TensorFlow's options before Keras loads."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # also hides errors, which are about missing GPUs
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # several processes may share a GPU
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off by default without AVX-512, although up to four times faster
