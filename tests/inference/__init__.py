"""A package, so that `inference` is these tests and not the command of that name at the root."""
