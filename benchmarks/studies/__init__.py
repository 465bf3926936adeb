"""What the studies are made of: codecs, inputs, peers, tasks, one training, rows, tables, plots."""
