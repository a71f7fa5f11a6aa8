"""CaMOPD, DistractionIF and ProBias in JAX: three published systems on one training loop."""
