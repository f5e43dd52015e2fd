"""Model families: what a decoder may know of a checkpoint, and native classes."""
