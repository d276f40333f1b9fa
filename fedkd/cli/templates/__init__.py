"""Files that `fedkd new` and `fedkd deploy-kit` write, with ``$name`` where something is filled in."""
