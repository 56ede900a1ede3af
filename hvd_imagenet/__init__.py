"""Large-minibatch synchronous SGD for image classification, in PyTorch or Keras, on Horovod."""

__version__ = "0.1.0"
