"""The service around `runtime.orchestrator`: connections, the model file, inputs and answers."""
