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
    public var hooks: [HookMoment: Hook]

    public init(hooks: [HookMoment: Hook]) { self.hooks = hooks }

    /// Runs the hook of that moment, if there is one, with `GODWIT_HOOK` and `environment` set in its environment.
    /// - Throws: `.commandFailed` with the last of its output, `.timeout` once it was killed.
    public func run(_ moment: HookMoment, environment: [String: String] = [:]) throws(AgentError) {
        throw AgentError(.unsupported, "not built yet")
    }
}
