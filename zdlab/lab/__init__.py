"""Labs: a topology that is up, in namespaces of its own under one supervisor."""
