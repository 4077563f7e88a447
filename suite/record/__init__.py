"""What was measured and what is claimed, as JSON: schemas, the journal of a run, baselines, promotion.

Stands alone: standard library and jsonschema. Every reader refuses damaged input with `schema.RecordError`.
"""
