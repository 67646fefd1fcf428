"""Provide the functions behind the notebooks; importing this package sets TensorFlow's options before Keras loads."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # 3 hides errors, too: they would only say that no GPU was found
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # take GPU memory as needed: several processes may share it
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # the default, 0 on older processors, is up to 4 times slower
