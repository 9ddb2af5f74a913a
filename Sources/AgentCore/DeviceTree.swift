internal import BlockIO
internal import LinuxSystem
internal import SystemPackage

/// What stands on a block device: its partitions, what is stacked on them, and where they are mounted.
enum DeviceTree {
    /// - Parameter all: every mount, in the order in which they were made; otherwise one for each file system.
    static func mounts(on device: String, all: Bool = false) throws(AgentError) -> [Mount] {
        let numbers = try numbers(BlockDeviceMaker.name(of: device))
        let table = try withAgentError { () throws(SystemError) in try MountTable.current() }
        var seen: Set<String> = []
        return table.mounts.filter { numbers.contains($0.device) && (all || seen.insert($0.device).inserted) }
    }

    /// Whether other block devices stand on this one or on a partition of it.
    static func isStackedOn(_ device: String) throws(AgentError) -> Bool {
        let name = BlockDeviceMaker.name(of: device)
        let folder = "/sys/class/block/\(name)"
        return try withAgentError { () throws(SystemError) in
            let files = LinuxFileSystem()
            let parts = try files.list(folder).filter { $0.hasPrefix(name) }.map { "\(folder)/\($0)" }
            for part in [folder] + parts where try files.exists("\(part)/holders") {
                if try !files.list("\(part)/holders").isEmpty { return true }
            }
            return false
        }
    }

    /// `major:minor` of the device, its partitions, and of what holds any of them (device mapper, md).
    static func numbers(_ name: String) throws(AgentError) -> Set<String> {
        var numbers: Set<String> = []
        var names = [name]
        var visited: Set<String> = []
        while let name = names.popLast() {
            let folder = "/sys/class/block/\(name)"
            guard visited.insert(name).inserted, let number = try BlockDeviceMaker.attribute("\(folder)/dev") else {
                continue
            }
            numbers.insert(number)
            names += try withAgentError { () throws(SystemError) in
                let files = LinuxFileSystem()
                let holders = try files.exists("\(folder)/holders") ? try files.list("\(folder)/holders") : []
                return try files.list(folder).filter { $0.hasPrefix("\(name)p") } + holders
            }
        }
        return numbers
    }
}
