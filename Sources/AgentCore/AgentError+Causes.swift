internal import AgentAPI
internal import DiskImage
internal import LinuxSystem
internal import SystemPackage

/// Runs `body`, and makes its failure one of the agent.
func withAgentError<R: ~Copyable>(_ body: () throws(SystemError) -> R) throws(AgentError) -> R {
    do throws(SystemError) { return try body() } catch { throw AgentError(error) }
}

extension AgentError {
    init(_ error: SystemError) {
        let code: Code =
            switch error.kind {
            case .outOfSpace: .outOfSpace
            case .notFound: .notFound
            case .exists: .exists
            case .readOnly: .readOnly
            case .permission: .permission
            case .busy: .busy
            case .misuse: .invalid
            case .io: .io
            }
        self.init(code, "\(error)")
    }

    init(_ error: DiskError) {
        let code: Code =
            switch error.code {
            case .notFound: .notFound
            case .inUse: .inUse
            case .outOfSpace: .outOfSpace
            case .busy: .busy
            case .invalid, .outOfBounds: .invalid
            case .notADisk: .notADisk
            case .exists: .exists
            case .unsupported: .unsupported
            case .corrupt: .corrupt
            case .readOnly: .readOnly
            case .permission: .permission
            case .io: .io
            }
        self.init(code, error.message)
    }

    init(_ error: ControlError) {
        if let code = DiskError.Code(rawValue: error.code) {
            self.init(DiskError(code, error.message, path: ""))
            return
        }
        let code: Code =
            switch error.code {
            case ControlError.unreachable: .notAttached
            case ControlError.timeout: .timeout
            case ControlError.expired: .expired
            case ControlError.protocolViolation: .protocolViolation
            case ControlError.released: .inUse
            default: .io
            }
        self.init(code, error.message)
    }
}
