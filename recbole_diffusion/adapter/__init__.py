"""The one package where we meet RecBole."""
