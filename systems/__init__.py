"""Systems that the program builds: what all share (config, base), PeVL's rivals, the registry."""
