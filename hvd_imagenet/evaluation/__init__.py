"""Evaluation: every image of a split once, in training and by ``hvd-imagenet evaluate``, which looks at each class."""
