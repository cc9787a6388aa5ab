"""Keras and JAX are tested in processes of their own: test_keras.py and test_jax.py."""

collect_ignore = ["keras", "jax"]
