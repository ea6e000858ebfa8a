"""Real robots: a protocol, its safety limits and adapters. Nothing is here yet."""
