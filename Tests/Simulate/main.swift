import SimulationSupport

SimulateProgram.run(Array(CommandLine.arguments.dropFirst()))
