internal import AgentCore
internal import ArgumentParser
internal import DeviceServer
internal import DiskImage
internal import LinuxSystem
internal import NBDServer

/// Not for people: the process that serves a disk over NBD.
struct DiskServerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: DiskServerArguments.command, abstract: "Serves a disk to NBD clients of this host.",
        shouldDisplay: false)

    @Argument var disk: String
    @Option var socket: String
    @Option var control: String?
    @Flag var readOnly = false
    @Flag var buffered = false

    func run() throws {
        var configuration = DeviceConfiguration(disk: disk, controlSocket: control)
        configuration.options.readOnly = readOnly
        configuration.options.direct = !buffered
        // Whoever started it reads the outcome from its standard output; what else is printed goes to the log.
        let report = OwnedDescriptor(adopting: try takeStandardStreams().output)
        // Threads of clients may still run: no exit handler may meet them.
        endProcess(DiskProcess.run(configuration, socket: socket, report: report))
    }
}
