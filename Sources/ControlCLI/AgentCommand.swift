internal import AgentCore
internal import ArgumentParser
internal import BlockIO

struct AgentCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "agent", abstract: "The far side of backups and migrations; started by sshd.",
        discussion: "Speaks the protocol of godwit-peer(5) on standard input and output.")

    @Flag(help: "Serve one peer on standard input and output.") var stdio = false
    @Option(
        help: ArgumentHelp("Allow stores only, and only in or below this folder.", valueName: "folder"),
        completion: .directory)
    var restrictStore: String?
    @Option(help: ArgumentHelp("Allow nothing outside of this folder.", valueName: "folder"), completion: .directory)
    var restrictFolder: String?
    @Flag(help: "Allow nothing that changes anything.") var readOnly = false
    @Flag(help: "Run the command with which a peer that moves a disk here wants its guest started.")
    var allowCommands = false
    @OptionGroup var common: CommonOptions

    func validate() throws {
        guard stdio else { throw ValidationError("the agent serves standard input and output only: give --stdio") }
    }

    func run() throws {
        var limits = PeerLimits()
        limits.storeFolder = restrictStore
        limits.rootFolder = restrictFolder
        limits.isReadOnly = readOnly
        let receiver = MigrationService.receiver(
            configuration: try common.configuration(), allowsCommands: allowCommands, register: MigrationRegister())
        try PeerAgent(fs: LinuxFileSystem(), limits: limits, product: Program.product, receiver: receiver)
            .serveStandardStreams()
    }
}
