internal import AgentAPI
internal import BlockIO
internal import DiskImage
internal import LinuxSystem

/// The NBD clients that are connected to a disk's server.
final class NBDClients: Sendable {
    private struct State {
        /// Their processes, as they were when they connected; -1 where nobody knows.
        var processes: [UInt64: Int32] = [:]
        var lastIdentifier: UInt64 = 0
    }
    private let state = Monitor(State())
    /// For clients that have hung up, of which the server has yet to hear.
    private static let leaveNanoseconds: UInt64 = 3 * HeldWrites.lookNanoseconds

    func connected(_ process: Int32) -> UInt64 {
        state.change { state in
            state.lastIdentifier += 1
            state.processes[state.lastIdentifier] = process
            return state.lastIdentifier
        }
    }

    func disconnected(_ identifier: UInt64) { state.change { $0.processes[identifier] = nil } }

    /// One for each process.
    var all: [ClientStatus] {
        let processes = Set(state.withLock { $0.processes.values })
        return processes.sorted().map { ClientStatus(pid: $0, name: processName($0)) }
    }

    /// - Throws: `.busy` while there is one.
    func refuseWhileConnected(_ path: String) throws(DiskError) {
        let isEmpty: Bool? = state.wait(until: SystemTime().monotonic() + Self.leaveNanoseconds) { state in
            state.processes.isEmpty ? true : nil
        }
        guard isEmpty == nil else { return }
        let names = all.map { "process \($0.pid) (\($0.name))" }.joined(separator: ", ")
        throw DiskError(
            .busy, "\(path) is in use over NBD by \(names): end that first, or detach with --force, which cuts it off",
            path: path)
    }
}
