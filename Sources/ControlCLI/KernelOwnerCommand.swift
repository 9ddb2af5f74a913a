internal import AgentCore
internal import ArgumentParser
internal import DeviceControl
internal import DeviceServer
internal import DiskImage
internal import LinuxSystem

/// Not for people: the process that owns a disk which the driver serves.
struct KernelOwnerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: KernelOwnerArguments.command, abstract: "Owns a disk that the driver in the kernel serves.",
        shouldDisplay: false)

    @Argument var disk: String
    @Option var control: String
    @Flag var readOnly = false
    @Flag var buffered = false
    @Option var leftBehind: UInt32?

    func run() throws {
        var configuration = DeviceConfiguration(disk: disk, controlSocket: control)
        configuration.options.readOnly = readOnly
        configuration.options.direct = !buffered
        // Whoever started it reads the outcome from its standard output.
        let code = KernelOwner.run(
            configuration, leftBehind: leftBehind.map { DeviceIndex($0) }, report: try OwnedDescriptor(duplicating: 1))
        if code != 0 { throw ExitCode(code) }
    }
}
