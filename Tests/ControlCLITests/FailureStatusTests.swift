import DiskImage
import LinuxSystem
import Migration
import SystemPackage
import Testing

@testable import AgentCore
@testable import ControlCLI

/// One cause has one exit status, whichever way the error came.
@Suite struct FailureStatusTests {
    @Test("attach and mount end like the commands that open the disk themselves", arguments: DiskError.Code.allCases)
    func disk(code: DiskError.Code) {
        let error = DiskError(code, "what and where", path: "/disk")
        #expect(CommandFailure(AgentError(error)).status == CommandFailure(error).status)
    }

    @Test("a server that is silent ends a migration like any other command")
    func silence() {
        #expect(CommandFailure(MigrationError(.source, "no sign", cause: .silence)).status == .timeout)
        #expect(CommandFailure(MigrationError(.source, "no sign")).status == .inputOutput)
    }

    @Test(
        "what the host says is told apart",
        arguments: [
            (Errno.permissionDenied, ControlCLI.ExitStatus.permission), (.notPermitted, .permission),
            (.readOnlyFileSystem, .readOnly), (.noSpace, .noSpace), (.diskQuotaExceeded, .noSpace),
            (.noSuchFileOrDirectory, .notFound), (.notDirectory, .notFound), (.fileExists, .exists),
            (.ioError, .inputOutput), (.tooManySymbolicLinkLevels, .usage), (.illegalSeek, .usage),
        ])
    func host(errno: Errno, status: ControlCLI.ExitStatus) {
        let error = SystemError(errno: errno, operation: "open", subject: "/disk")
        #expect(CommandFailure(error).status == status)
        #expect(CommandFailure(DiskError(error, path: "/disk")).status == status)
        #expect(CommandFailure(AgentError(error)).status == status)
    }
}
