"""What examples/kerascv_cli.py is made of: options, data, models, training, report."""
