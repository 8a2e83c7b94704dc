"""Many runs of one kind: who carries them out, what a curve over them is, and its page. The runs come from outside."""
