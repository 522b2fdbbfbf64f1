"""Sequential recommenders: a user is a history of items in time order."""
