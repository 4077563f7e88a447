"""How launch scores become verdicts. `evidence` and `gate` are pure: neither torch nor pytest."""
