"""Access: keys, who came without one, wrong keys, certificates, and the record of what operators did."""
