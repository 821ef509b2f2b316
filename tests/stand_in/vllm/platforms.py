class Platform:
    cpu = True

    def is_cpu(self) -> bool:
        return self.cpu


current_platform = Platform()
