"""Which receiver gets what: the desired state, the plan, and the sockets, joins, rings and kernel filters that apply
it.

A change goes through `subscriptions` (the public calls), `desired` (parsed), `plan` (which socket holds what) and
`joins` (applied whole or not at all).
"""
