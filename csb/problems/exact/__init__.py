"""Closed forms that trainings are tested against: mixtures, Gaussian IPF and IMF, truncated normals."""
