"""Many runs: a grid of settings times seeds, run until all is there, and the table with error bars that comes of it."""
