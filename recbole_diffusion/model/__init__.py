"""The models: RecBole's contract on one side, the diffusion library on the other."""
