"""hvd-imagenet doctor: what is wrong with installation, hosts, network and data, before a job finds it."""
