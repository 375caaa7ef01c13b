"""The runtimes that the worker can run models with: a module each, with a class Engine (see `engine.Engine`)."""
