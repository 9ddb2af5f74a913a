internal import Glibc
internal import LinuxSystem

/// `simulate`: seeds from the first on until the time is over, or one with all that happened.
///
///     simulate --first N --step N --seconds N [--progress FILE]
///     simulate --seed N [--steps LIST] [--whole] [--trace] [--brief] [--log]
public enum SimulateProgram {
    /// A run takes less than a second; one that takes so long hangs, and is ended by a signal.
    private static let secondsMax: UInt32 = 120

    public static func run(_ arguments: [String]) -> Never {
        var values: [String: String] = [:]
        var rest = arguments[...]
        while let name = rest.popFirst() {
            let isFlag = ["--trace", "--whole", "--quiet", "--brief", "--log"].contains(name)
            values[name] = isFlag ? "1" : rest.popFirst() ?? ""
        }
        func number(_ name: String, _ standard: UInt64) -> UInt64 {
            guard let text = values[name] else { return standard }
            guard let value = UInt64(text) else {
                print("simulate: \(name) needs a number")
                exit(64)
            }
            return value
        }
        guard values["--seed"] != nil else {
            let isWell = soak(
                first: number("--first", 1), step: number("--step", 1), seconds: number("--seconds", 10),
                progress: values["--progress"])
            exit(isWell ? 0 : 1)
        }
        var simulation = Simulation(seed: number("--seed", 1))
        if let list = values["--steps"] { simulation.keep(list) }
        if values["--quiet"] != nil {
            alarm(secondsMax)
            exit(simulation.run().finding == nil ? 0 : 1)
        }
        if values["--log"] != nil {
            simulation.isTraced = true
            let outcome = simulation.run()
            for line in outcome.log { print(line) }
            exit(outcome.finding == nil ? 0 : 1)
        }
        if values["--brief"] != nil {
            let small = Replay.fails(simulation) ? simulation.shrunk(Replay.fails) : simulation
            report(small, Simulation.Outcome(finding: "it traps or hangs"))
            exit(1)
        }
        exit(replay(simulation, isTraced: values["--trace"] != nil, isWhole: values["--whole"] != nil) ? 0 : 1)
    }

    private static func replay(_ whole: Simulation, isTraced: Bool, isWhole: Bool) -> Bool {
        var simulation = whole
        guard Replay.fails(simulation) else {
            print("seed \(simulation.seed) passed")
            return true
        }
        if !isWhole { simulation = simulation.shrunk(Replay.fails) }
        report(simulation, Simulation.Outcome(finding: "as follows"))
        simulation.isTraced = isTraced
        // Last, as it may end this process.
        let outcome = simulation.run()
        for line in outcome.log { print(line) }
        report(simulation, outcome)
        return false
    }

    static func report(_ simulation: Simulation, _ outcome: Simulation.Outcome) {
        print("FAILED seed \(simulation.seed) --steps \(simulation.list): \(outcome.finding ?? "no more")")
        print("    in \(simulation.world)")
        for step in simulation.steps { print("    \(step)") }
        fflush(nil)
    }

    private static func soak(first: UInt64, step: UInt64, seconds: UInt64, progress: String?) -> Bool {
        let end = SystemTime().monotonic() + seconds * 1_000_000_000
        let status = progress.map { open($0, O_WRONLY | O_CREAT | O_TRUNC, 0o644) }
        var seed = first
        var (passed, failed) = (0, 0)
        var done: [String: Int] = [:]
        while SystemTime().monotonic() < end {
            if let status {
                let line = "\(seed) \(passed) \(failed)                    \n"
                _ = pwrite(status, line, line.utf8.count, 0)
            }
            alarm(secondsMax)
            let simulation = Simulation(seed: seed)
            let outcome = simulation.run()
            done.merge(outcome.done) { $0 + $1 }
            if outcome.finding == nil {
                passed += 1
            } else {
                failed += 1
                alarm(0)
                report(simulation.shrunk(Replay.fails), outcome)
            }
            seed += step
        }
        alarm(0)
        print("done: " + done.sorted { $0.key < $1.key }.map { "\($0.value) \($0.key)" }.joined(separator: ", "))
        print("seeds \(first) to \(seed) by \(step): \(passed) passed, \(failed) failed")
        return failed == 0
    }
}

/// Runs a simulation in a process of its own: one that traps or hangs fails like any other.
enum Replay {
    static func fails(_ simulation: Simulation) -> Bool {
        var child = pid_t()
        let arguments = [
            "simulate", "--seed", "\(simulation.seed)", "--steps", simulation.list, "--quiet",
        ]
        var list: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) }
        list.append(nil)
        defer { for text in list { free(text) } }
        guard posix_spawn(&child, "/proc/self/exe", nil, nil, &list, environ) == 0 else { return false }
        var status: CInt = 0
        while waitpid(child, &status, 0) < 0, errno == EINTR {}
        return status != 0
    }
}
