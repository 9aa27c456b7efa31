"""Learning with the diffusion model: captioned pictures in, and what is trained with them."""
