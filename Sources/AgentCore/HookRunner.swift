internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// One of an administrator's commands around a snapshot or a migration.
public struct Hook: Codable, Hashable, Sendable {
    /// For `/bin/sh -c`.
    public var command: String
    public var limitSeconds: UInt64

    public init(command: String, limitSeconds: UInt64 = 30) {
        self.command = command
        self.limitSeconds = limitSeconds
    }
}

/// When a hook runs.
public enum HookMoment: String, Codable, Hashable, Sendable, CaseIterable {
    /// Before the file systems are frozen. A failure ends the snapshot.
    case preFreeze = "pre-freeze"
    /// After they are thawed, also when the snapshot failed.
    case postThaw = "post-thaw"
    /// Stops the guest, at the source of a migration. A failure ends the migration.
    case stop
    /// Starts the guest: at the target, or again at the source of a failed migration.
    case start
}

/// Runs an administrator's commands, each with a time limit.
public struct HookRunner: Sendable {
    private let hooks: [HookMoment: [Hook]]
    private static let outputBytesMax = 64 << 10

    /// The hooks of one disk, or of disks that have them in common.
    public init(hooks: [HookMoment: Hook]) { self.hooks = hooks.mapValues { [$0] } }

    /// The hooks of several disks that are dealt with together; equal ones run once.
    public init(joining runners: [HookRunner]) {
        var joined: [HookMoment: [Hook]] = [:]
        for (moment, list) in runners.flatMap(\.hooks) {
            let present = joined[moment] ?? []
            joined[moment] = present + list.filter { !present.contains($0) }
        }
        hooks = joined
    }

    public func has(_ moment: HookMoment) -> Bool { hooks[moment]?.isEmpty == false }

    /// Runs the hooks of that moment with `GODWIT_HOOK` and `environment` set in their environment.
    ///
    /// One has ended when its shell has; what that leaves running in the background goes on, but its output is lost.
    /// Several `post-thaw` hooks run in the opposite order, and all of them whether one failed or not.
    /// - Throws: `.commandFailed` with the last of its output, `.timeout` once it and all it started were killed.
    public func run(_ moment: HookMoment, environment: [String: String] = [:]) throws(AgentError) {
        let list = hooks[moment] ?? []
        guard moment == .postThaw else {
            for hook in list { try run(hook, moment, environment) }
            return
        }
        var failure: AgentError?
        for hook in list.reversed() {
            do throws(AgentError) { try run(hook, moment, environment) } catch { failure = failure ?? error }
        }
        if let failure { throw failure }
    }

    private func run(_ hook: Hook, _ moment: HookMoment, _ environment: [String: String]) throws(AgentError) {
        let variables = processEnvironment().merging(environment) { $1 }
            .merging(["GODWIT_HOOK": moment.rawValue]) { $1 }
        let code: CInt?
        let output: [UInt8]
        do throws(SystemError) {
            (code, output) = try Self.run(hook, variables)
        } catch {
            throw AgentError(.commandFailed, "the \(moment.rawValue) hook could not be run: \(error)")
        }
        let said = String(decoding: output, as: UTF8.self).parts(between: "\n").suffix(3).joined(separator: "; ")
        guard let code else {
            throw AgentError(
                .timeout,
                "the \(moment.rawValue) hook was killed after \(hook.limitSeconds) s: \(hook.command) (\(said))")
        }
        guard code == 0 else {
            throw AgentError(
                .commandFailed, "the \(moment.rawValue) hook failed with exit code \(code): \(hook.command) (\(said))")
        }
    }

    private static let readBytes = 16 << 10
    /// As many as a pipe has room for, where pages are large.
    private static let pipeReads = 64

    /// - Returns: the exit code, `nil` when the time was over; and the last of the output.
    private static func run(
        _ hook: Hook, _ variables: [String: String]
    ) throws(SystemError) -> (CInt?, [UInt8]) {
        let pipe = try Pipe()
        let child = try ChildProcess(
            "/bin/sh", ["-c", hook.command], environment: variables, output: .descriptor(pipe.writing.number),
            errors: .descriptor(pipe.writing.number), newGroup: true)
        let output = pipe.keepReading()
        let time = SystemTime()
        let deadline = time.monotonic() + hook.limitSeconds * 1_000_000_000
        var kept: [UInt8] = []
        var entries = [PollEntry(child.descriptor, .readable), PollEntry(output.number, .readable)]
        while true {
            let left = deadline - min(deadline, time.monotonic())
            let count = try pollDescriptors(&entries, deadlineMilliseconds: Int(left / 1_000_000))
            // Also of one that never stops talking, unless it has ended by now.
            guard count > 0, left > 0 || !entries[0].ready.isEmpty else {
                signalProcessGroup(child.identifier, Signal.kill)
                _ = try child.wait()
                return (nil, kept)
            }
            let hasEnded = !entries[0].ready.isEmpty
            // What it said last is in the pipe when it has ended, which what it has left behind may fill on and on.
            for _ in 0..<(hasEnded ? pipeReads : 1) where !entries[1].ready.isEmpty {
                let part = try output.readSome(upTo: readBytes)
                if part.isEmpty { entries[1].descriptor = -1 }
                kept = (kept + part).suffix(outputBytesMax)
                if hasEnded { _ = try pollDescriptors(&entries, deadlineMilliseconds: 0) }
            }
            if hasEnded { return (try child.wait(), kept) }
        }
    }
}
