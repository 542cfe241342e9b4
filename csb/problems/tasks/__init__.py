"""Problems whose pairs and exact posteriors are known."""
