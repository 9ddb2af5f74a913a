internal import AgentAPI
internal import AgentCore
internal import Backup
internal import BackupStore
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import Migration
internal import Transport

/// Why a command failed: what ends up on standard error and as the exit status.
struct CommandFailure: Error, Hashable {
    var status: ExitStatus
    /// What is wrong, where, and what to do; one line.
    var message: String

    init(_ status: ExitStatus, _ message: String) {
        self.status = status
        self.message = message
    }

    /// Translates a module's error.
    init(_ error: any Error) {
        switch error {
        case let error as CommandFailure: self = error
        case let error as DiskError: self.init(Self.status(error.code), error.message)
        case let error as StoreError: self.init(Self.status(error.code), error.message)
        case let error as BackupFailure: self.init(Self.status(error), error.message)
        case let error as BackupError: self.init(Self.status(error.code), error.message)
        case let error as DiskAccessError: self.init(Self.status(error), Self.cause(error))
        case let error as MigrationError: self.init(Self.status(error), error.message)
        case let error as AgentError: self.init(Self.status(error.code), error.message)
        case let error as ControlError: self.init(Self.status(control: error.code), error.message)
        case let error as ConfigurationError: self.init(.configuration, error.description)
        case let error as TransportError: self.init(Self.status(error.code), error.message)
        case let error as SystemError: self.init(Self.status(error.kind), error.description)
        default: self.init(.failure, "\(error)")
        }
    }

    private static func status(_ code: AgentError.Code) -> ExitStatus {
        switch code {
        case .invalid: .usage
        case .notFound: .notFound
        case .inUse: .inUse
        case .notAttached: .notAttached
        case .alreadyAttached: .alreadyAttached
        case .busy: .busy
        case .expired: .expired
        case .unsupported: .unsupported
        case .outOfSpace: .noSpace
        case .exists: .exists
        case .readOnly: .readOnly
        case .permission: .permission
        case .notADisk: .notADisk
        case .corrupt: .corrupt
        case .io: .inputOutput
        case .timeout: .timeout
        case .commandFailed: .command
        case .protocolViolation: .peerProtocol
        }
    }

    private static func status(_ code: DiskError.Code) -> ExitStatus {
        switch code {
        case .notADisk: .notADisk
        case .unsupported: .unsupported
        case .corrupt: .corrupt
        case .inUse: .inUse
        case .exists: .exists
        case .notFound: .notFound
        case .outOfSpace: .noSpace
        case .io: .inputOutput
        case .outOfBounds, .invalid: .usage
        case .readOnly: .readOnly
        case .permission: .permission
        case .busy: .busy
        }
    }

    private static func status(_ failure: BackupFailure) -> ExitStatus {
        switch failure {
        case .job(let error): status(error.code)
        case .agent(let error): status(error.code)
        case .disk(let error): status(error)
        case .host(let error): status(error.kind)
        }
    }

    private static func status(_ code: BackupError.Code) -> ExitStatus {
        switch code {
        case .store(let code): status(code)
        case .disk(let code): status(code)
        case .cancelled: .interrupted
        case .invalid: .usage
        case .busy: .busy
        case .io: .inputOutput
        case .outOfSpace: .noSpace
        case .exists: .exists
        }
    }

    private static func status(_ error: DiskAccessError) -> ExitStatus {
        switch error {
        case .agent(let error): status(error.code)
        case .control(let error): status(control: error.code)
        case .disk(let error): status(error.code)
        }
    }

    private static func cause(_ error: DiskAccessError) -> String {
        switch error {
        case .agent(let error): error.message
        case .control(let error): error.message
        case .disk(let error): error.message
        }
    }

    private static func status(_ error: MigrationError) -> ExitStatus {
        if error.code == .guestDown { return .guestDown }
        switch error.cause {
        case .disk(let code) where error.code == .source: return status(code)
        case .silence where error.code == .source: return .timeout
        case .link(let code) where [.link, .refused].contains(error.code): return status(code)
        default: break
        }
        return switch error.code {
        case .refused: .refused
        case .busy: .busy
        case .guestDown: .guestDown
        case .notConverging: .notConverged
        case .link: .connection
        case .source: .inputOutput
        case .target: .remote
        case .digestMismatch: .verification
        case .guest: .command
        case .expired: .expired
        case .cancelled: .interrupted
        case .unconfirmed: .unconfirmed
        case .migrated: .inUse
        case .protocolViolation: .peerProtocol
        }
    }

    private static func status(_ code: StoreError.Code) -> ExitStatus {
        switch code {
        case .notAStore: .notFound
        case .unsupported: .unsupported
        case .corrupt, .missing: .corrupt
        case .exists: .exists
        case .outOfSpace: .noSpace
        case .io: .inputOutput
        case .readOnly: .readOnly
        case .permission: .permission
        case .busy: .busy
        case .invalid: .usage
        case .remote: .connection
        case .refused: .remote
        }
    }

    private static func status(_ code: TransportError.Code) -> ExitStatus {
        switch code {
        case .unreachable, .closed: .connection
        case .hostKeyUnknown, .hostKeyChanged: .hostKey
        case .authenticationFailed: .authentication
        case .commandFailed: .remote
        case .timedOut: .timeout
        case .protocolViolation: .peerProtocol
        case .versionMismatch: .version
        case .invalidTarget: .usage
        case .peerFailed: .remote
        case .system: .inputOutput
        }
    }

    private static func status(_ kind: SystemError.Kind) -> ExitStatus {
        switch kind {
        case .outOfSpace: .noSpace
        case .notFound: .notFound
        case .exists: .exists
        case .readOnly: .readOnly
        case .permission: .permission
        case .busy: .busy
        case .misuse: .usage
        case .io: .inputOutput
        }
    }

    /// The owner of a disk names its errors as text; the names are those of the other modules' codes.
    private static func status(control code: String) -> ExitStatus {
        switch code {
        case ControlError.unreachable: .notAttached
        case ControlError.protocolViolation: .peerProtocol
        case ControlError.stopped: .interrupted
        case ControlError.released: .inUse
        case "outOfSpace": .noSpace
        case "io": .inputOutput
        case "invalid", "outOfBounds": .usage
        default: ExitStatus.allCases.first { $0.name == code } ?? .failure
        }
    }
}

/// Runs `body`, whose errors may be any module's.
func translated<R: ~Copyable>(_ body: () throws -> R) throws(CommandFailure) -> R {
    do { return try body() } catch { throw CommandFailure(error) }
}
