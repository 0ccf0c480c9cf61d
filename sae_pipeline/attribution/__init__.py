"""What each active feature contributes to the choice between two next tokens: by gradient, and by switching it off."""
