"""Provide the functions behind the notebooks; importing this package sets TensorFlow's options before Keras loads."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # 3 also hides errors, which only report missing GPUs
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # take GPU memory as needed: several processes may share it
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off by default without AVX-512, although up to four times faster
