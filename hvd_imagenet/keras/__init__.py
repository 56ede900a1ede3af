"""The Keras half; everything of TensorFlow, Keras and their part of Horovod is in here."""

from hvd_imagenet.keras import importing

importing.import_quietly()
