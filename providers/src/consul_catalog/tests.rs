//! Tests against an agent that answers from a script.
