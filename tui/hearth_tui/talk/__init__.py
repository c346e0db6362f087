"""The screen of `hearth chat`: a conversation with one box."""
