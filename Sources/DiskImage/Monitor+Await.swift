internal import LinuxSystem

extension Monitor {
    /// Calls `body` now and after each change, until it answers.
    func await<R, E: Error>(_ body: (inout Value) throws(E) -> R?) throws(E) -> R {
        while true {
            if let answer = try wait(until: nil, body) { return answer }
        }
    }
}
