"""The box on its network: what it says of itself by mDNS, and where."""
