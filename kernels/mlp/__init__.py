"""The parts of a transformer layer around its attention: the gated MLP, QKV projections, their norms."""
